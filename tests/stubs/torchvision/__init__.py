"""The four functions of torchvision that Meta's `segment-anything` imports, for machines without torchvision.

Written for the tests alone; where the real torchvision is installed the tests use that.
"""
