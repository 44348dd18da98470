"""The page: the fleet for people, on the views and rights of the API.

`site` has the views, `door` login and logout, `session` who looks; `screens` says what each view
shows, `summary` what is wrong where, `field` draws all nodes, `holdings` asks for leases. All is
rendered here: `static/page.js` only asks for the same page again when the fleet has changed.
"""
