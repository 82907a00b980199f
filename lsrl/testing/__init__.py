"""What tries compilers and networks out: random programs, and comparisons with the reference."""
