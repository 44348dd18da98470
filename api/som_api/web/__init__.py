"""The fleet API: who has which memory where, over HTTPS, with the rights that kubectl has.

`fleet` is what it needs to know and the operator implements, `views` the JSON, `access` who may
see what, `app` the requests. It reads caches and changes nothing.
"""
