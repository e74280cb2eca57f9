"""The images: every source becomes one uint8 array with labels, prepared once and served on the device.

Read `sources` for what there is, `store` for how it is prepared, `loader` for how it reaches the device.
"""
