"""The reference suite: ``pytest --pyargs pytest_deepspeed.suite -m zero3``.

Says whether each mode of DeepSpeed works on this machine, with this torch and this DeepSpeed.
"""
