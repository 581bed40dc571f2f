"""What a mask costs a training step."""
