"""How good frozen features are: functions of features and labels, which know no simulator and no checkpoint."""
