"""Audits of a generator: does it copy training images (`memorisation`), does it leave modes out (`modes`)?

Both look at features of images (`features`) in a whitened space (`whitening`), through their nearest neighbours.
"""
