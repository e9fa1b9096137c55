"""Clouds: an image becomes a machine on Amazon EC2 or Google Compute Engine, is watched, and goes without a trace.

cloud.provider says what a cloud has to offer; cloud.deploy and cloud.destroy work with any of them. The modules of a cloud, and
with them its SDK, are imported when that cloud is used (cloud.providers).
"""
