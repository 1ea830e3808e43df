"""What erasing costs: time, memory, speed of evaluation."""
