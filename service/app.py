"""`service.app:create_app`, the name under which servers find the HTTP application."""

from service.api.app import create_app

__all__ = ["create_app"]
