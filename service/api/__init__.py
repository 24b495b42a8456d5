"""The HTTP APIs. This is the only package that knows a protocol.

It turns a request into pictures and a `Wanted`, calls the runtime, and turns outcomes into answers
and errors into statuses. It must not choose the reduction, and it must not use a model.
"""
