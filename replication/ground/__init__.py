"""The parts of replicated knowledge: versions of an object, the numbers a replica holds, and the clock
that orders writes which knew nothing of each other. Values and pure functions over them."""
