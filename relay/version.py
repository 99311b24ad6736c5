"""The version, in the one place that every other reads."""

VERSION = "0.1.0"
