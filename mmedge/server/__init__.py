"""Serve one bundle over HTTP: the Open Inference Protocol (KServe v2) and a form that takes plain files."""
