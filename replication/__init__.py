"""Public folder replication: stores of a tree that take changes each by itself and end up equal.

`ground` is what knowledge is made of, `organisation` the sites and what it costs to reach them, `core`
decides without doing, `simulation` drives whole organisations of it. It knows the store's ground only.
"""
