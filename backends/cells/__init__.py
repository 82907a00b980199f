"""What the targets with stock recurrent cells share."""
