"""What happens to one request; read `classify.py` first.

This package admits the request, chooses its reduction, has its pictures decoded and computed, and
ranks the labels. It must not know HTTP, and it must not read a setting.
"""
