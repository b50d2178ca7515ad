//! report.html and report.json.
