//! Attacks on trace files, and on what lies beside them.

use std::fs;

use trailproof::verify::Verdict::{Changed, Missing, Unlisted};
use trailproof_topology::names::file_time;

use super::tampers::{LAST, Tamper, change, change_metadata, file, files, one, read};

pub(crate) const FILES: &[(&str, Tamper)] = &[
    ("flip a byte of a file", |archive| {
        let file = file(archive);
        change(archive, &file.bucket, &file.object, |bytes| bytes[9] ^= 1);
        one(Changed, file.object)
    }),
    ("truncate a file", |archive| {
        let file = file(archive);
        change(archive, &file.bucket, &file.object, |bytes| bytes.truncate(bytes.len() - 1));
        one(Changed, file.object)
    }),
    ("extend a file", |archive| {
        let file = file(archive);
        change(archive, &file.bucket, &file.object, |bytes| bytes.push(0));
        one(Changed, file.object)
    }),
    ("empty a file", |archive| {
        let file = file(archive);
        change(archive, &file.bucket, &file.object, Vec::clear);
        one(Changed, file.object)
    }),
    ("swap two files", |archive| {
        let (_, one, other) = files(archive);
        let paths = [&one, &other].map(|file| archive.path(&file.bucket, &file.object));
        let aside = archive.root().join(".aside");
        fs::rename(&paths[0], &aside).unwrap();
        fs::rename(&paths[1], &paths[0]).unwrap();
        fs::rename(&aside, &paths[1]).unwrap();
        vec![(Changed, one.object), (Changed, other.object)]
    }),
    ("rename a file", |archive| {
        let file = file(archive);
        let renamed = file.object.replace("/ECS/", "/EVS/");
        fs::create_dir_all(archive.path(&file.bucket, &renamed).parent().unwrap()).unwrap();
        let rename = |from, to| fs::rename(from, to).unwrap();
        let (bucket, object) = (&file.bucket, &file.object);
        rename(archive.path(bucket, object), archive.path(bucket, &renamed));
        rename(archive.side(bucket, object), archive.side(bucket, &renamed));
        vec![(Missing, file.object), (Unlisted, renamed)]
    }),
    ("delete a file", |archive| {
        let file = file(archive);
        archive.remove(&file.bucket, &file.object);
        one(Missing, file.object)
    }),
    ("delete a file's metadata", |archive| {
        let file = file(archive);
        fs::remove_file(archive.side(&file.bucket, &file.object)).unwrap();
        one(Missing, file.object)
    }),
    ("change a file's metadata", |archive| {
        let file = file(archive);
        change_metadata(archive, &file.bucket, &file.object, "first-offset");
        one(Changed, file.object)
    }),
    ("compress a file anew", |archive| {
        let file = file(archive);
        let path = archive.path(&file.bucket, &file.object);
        let content = zstd::decode_all(fs::read(&path).unwrap().as_slice()).unwrap();
        fs::write(path, zstd::encode_all(content.as_slice(), 19).unwrap()).unwrap();
        one(Changed, file.object)
    }),
    ("insert a forged file into the past", |archive| {
        let file = file(archive);
        let (stem, _) = file.object.rsplit_once('_').unwrap();
        let forged = format!("{stem}_0123456789abcdef.json.zst");
        let format = [("format", "trailproof/file/v1".to_owned())];
        archive.put(&file.bucket, &forged, b"forged", &format);
        one(Unlisted, forged)
    }),
    ("insert a forged file into the present, without metadata", |archive| {
        let file = file(archive);
        let end = file_time(read(archive, "t1", LAST).interval_end_ms + 1_000);
        let forged = format!("CloudTraces/local/2025/11/22/t1/ECS/CloudTrace_local_{end}");
        let forged = format!("{forged}_0123456789abcdef.json.zst");
        archive.put(&file.bucket, &forged, b"forged", &[]);
        one(Unlisted, forged)
    }),
    ("insert a forged file into the far future", |archive| {
        let file = file(archive);
        let name = "CloudTrace_local_2999-01-01T00-00-00Z_0123456789abcdef.json.zst";
        let forged = format!("CloudTraces/local/2999/1/1/t1/ECS/{name}");
        let format = [("format", "trailproof/file/v1".to_owned())];
        archive.put(&file.bucket, &forged, b"forged", &format);
        one(Unlisted, forged)
    }),
    ("duplicate a file", |archive| {
        let file = file(archive);
        let copy = file.object.replace("/ECS/", "/");
        let stored = fs::read(archive.path(&file.bucket, &file.object)).unwrap();
        archive.put(&file.bucket, &copy, &stored, &[]);
        one(Unlisted, copy)
    }),
    ("insert a foreign object", |archive| {
        archive.put("cts-a1", "notes/readme.txt", b"hello", &[]);
        one(Unlisted, "cts-a1/notes/readme.txt")
    }),
    ("insert a link, and a file beside the buckets", |archive| {
        fs::write(archive.root().join("stray"), b"").unwrap();
        let link = archive.path("cts-a1", "CloudTraces/link");
        std::os::unix::fs::symlink("/dev/zero", link).unwrap();
        vec![(Unlisted, "stray".to_owned()), (Unlisted, "CloudTraces/link".to_owned())]
    }),
    ("put a link to the same bytes in place of a file", |archive| {
        let file = file(archive);
        let path = archive.path(&file.bucket, &file.object);
        let elsewhere = archive.root().join(".elsewhere");
        fs::rename(&path, &elsewhere).unwrap();
        std::os::unix::fs::symlink(&elsewhere, path).unwrap();
        vec![
            (Missing, file.object.clone()),
            (Unlisted, file.object),
            (Unlisted, ".elsewhere".to_owned()),
        ]
    }),
];
