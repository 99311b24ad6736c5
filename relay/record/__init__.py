"""What is told of an exchange: its record, the metrics, the usage and the cost read from passing bytes."""
