"""The numbers that judge predictions, their intervals, and calibration."""
