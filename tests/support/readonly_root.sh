#!/bin/sh
# Run a command where no file system can be written to, as in a container with a read-only root.
# Needs a mount namespace of its own, and an empty directory to build the file system in.
set -eu
root=$1
shift

mount --rbind / "$root"
while read -r _ _ _ _ point _; do
    case $point in
    "$root" | "$root"/*) mount -o remount,ro,bind "$point" 2>/dev/null || true ;;
    esac
done </proc/self/mountinfo
# Some mounts refuse it, such as those of devices; these must not.
for directory in / /tmp "${HOME:?}"; do
    if (: >"$root$directory/written-$$") 2>/dev/null; then
        echo "readonly_root.sh: $directory can be written to" >&2
        exit 1
    fi
done
exec chroot "$root" "$@"
