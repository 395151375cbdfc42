"""Plain DeepSpeed training of a small convolutional net on CIFAR10.

Run by hand with `torchrun ... -m reference_training.cifar10`, or called as a function in ranks that
exist already: `reference_training.train.train`.
"""
