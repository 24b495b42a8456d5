"""The same model behind other servers, one folder each: an app and exact requirements."""
