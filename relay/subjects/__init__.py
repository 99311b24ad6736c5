"""What a request is about: the API as tables, and the scanners that find models and ids while bytes pass."""
