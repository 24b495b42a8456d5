"""The doors: HTTP in, HTTP out. The only room that knows a protocol.

It turns a request into pictures and a `Wanted`, asks the runtime, and turns outcomes into answers
and errors into statuses. It must not decide what runs, and it must not touch a model.
"""
