"""The lab: real systemd hosts on one machine.

image     the root file system every host boots, built once per recipe
state     what a lab owns, on disk, so that nothing else is ever touched
network   one namespace for the fabric, one for control, one per host
seed      the files a host has before its first boot
cgroup    a control group per host, in every hierarchy
guest     the host seen from outside: its PID 1, commands inside it
launcher  the long-lived process that keeps one host running
lab       a whole lab up, down, and what is running
cli       the verbs

Standard library only: it runs on a machine where nothing is installed yet.
"""
