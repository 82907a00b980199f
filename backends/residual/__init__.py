"""What the targets with a residual stream share, and the blocks of each."""
