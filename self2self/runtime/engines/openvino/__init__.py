"""Engine of OpenVINO."""
