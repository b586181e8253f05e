"""Episodes in other file formats: LeRobot datasets, NumPy archives, videos."""
