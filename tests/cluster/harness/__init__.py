"""A real one-node Kubernetes cluster on this machine, in namespaces of its own.

`binaries` builds the components, `namespaces` is the machine within the machine, `control_plane`
and `node` start the components there, `images` builds what pods run, and `cluster` puts them
together. Nothing listens on the machine's network, and killing the first process of the PID
namespace ends everything.
"""
