//! What the job leaves behind.
