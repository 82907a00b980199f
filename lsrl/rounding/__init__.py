"""Whether a network equals the reference evaluator run in its own dtype, bit for bit.

A number that is made of exact ones by one rounding is the correctly rounded one, whoever makes it
and in whatever order. So program and network hold the same bits where both round at the same
places, once at each:

- every sum adds up at most two numbers that are not 0, times powers of two, or is a single product;
  all other terms are zeros, told by one-hot gates and by the signs of ReLUs;
- what was rounded already is rounded once more only behind a ReLU, a product, a memory or a gate,
  which stand in the network as they do in the program. Where passes put an affine map in place of
  one, or fuse two sums into one, that is no such place any more, and the verdict is refused;
- every number lies on a grid of normal numbers, however fine: `step` of an input or of
  `lsrl.bound` says so. What is smaller a device may take for 0, and a SiLU for something else;
- comparisons of such numbers are 0 or 1 by the promise of their ramp.

This package holds the program against the legalised graph that passes made of it, node by node, by
the trail that they left (`lsrl.ir.trail`); nothing is believed of what passes do to real numbers.
Each family of targets then holds its network's rows against the graph, by what is known of its
channels.
"""
