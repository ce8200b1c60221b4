#!/bin/sh
# agent.sh [OPTIONS] HOST COMMAND...: what ssh does for a launcher, on this machine and with little environment.
while [ "${1#-}" != "$1" ]; do shift; done
shift
exec env -i PATH="$PATH" HOME="$HOME" LIFEBOAT_TESTKIT_RUN="$LIFEBOAT_TESTKIT_RUN" OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 sh -c "$*"
