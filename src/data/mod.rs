//! Datasets in YOLO format.
