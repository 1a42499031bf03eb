#!/bin/sh
# What became of a job: running, success or failed. Called with its number.
case "$(squeue --noheader --states all --format %T --jobs "$1")" in
    COMPLETED) echo success ;;
    PENDING | CONFIGURING | RUNNING | COMPLETING | SUSPENDED | REQUEUED) echo running ;;
    *) echo failed ;;
esac
