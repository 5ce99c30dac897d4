"""Arrays to arrays: noise, outliers, restoration, orientation, padding, metrics."""
