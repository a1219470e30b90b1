#!/usr/bin/env bash
# The browser of the browser tests, on Debian and its kin: does nothing where it is there, and only
# says so where it cannot be had (the tests then skip with their reason).
set -uo pipefail
for name in chromium chromium-browser google-chrome; do
    command -v "$name" >/dev/null && { echo "browser: $(command -v "$name")"; exit 0; }
done
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
    echo "no browser, and no right to install one: the browser tests will be skipped" >&2
    exit 0
fi
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium fonts-dejavu-core >/dev/null ||
    echo "chromium could not be installed: the browser tests will be skipped" >&2
