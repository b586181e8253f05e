"""The learning systems: world model, imagination, return estimators, actor and critic."""
