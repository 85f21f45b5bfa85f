"""A lab's hub: who is online and how to call them. `client` needs no extra; the service needs ``dpc-jupyter[hub]``."""
