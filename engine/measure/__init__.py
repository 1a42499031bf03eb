"""What a model takes and what it gets right: time, memory, accuracy, each step's share."""
