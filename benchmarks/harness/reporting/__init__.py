"""Result files, pictures, the report and README."""
