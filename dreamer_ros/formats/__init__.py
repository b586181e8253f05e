"""Episodes in other people's files: LeRobot datasets, NumPy archives, videos."""
