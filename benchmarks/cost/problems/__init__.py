"""What cost is measured on, and checked against."""
