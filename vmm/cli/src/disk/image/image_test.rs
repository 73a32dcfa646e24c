use super::*;

fn told(head: &[u8], format: Option<ImageFormat>) -> Result<ImageFormat, String> {
    format_of(head, format, &"disk.img").map_err(|error| {
        assert_eq!(error.kind, ErrorKind::Usage);
        assert!(error.remedy.is_some());
        error.message
    })
}

#[test]
fn the_first_bytes_tell_the_format_unless_the_user_does() {
    let (raw, qcow2) = (Some(ImageFormat::Raw), Some(ImageFormat::Qcow2));
    let image = b"QFI\xfb\0\0\0\x03";
    assert_eq!(told(image, None), Ok(ImageFormat::Qcow2));
    assert_eq!(told(image, qcow2), Ok(ImageFormat::Qcow2));
    assert_eq!(told(image, raw), Ok(ImageFormat::Raw));
    assert_eq!(told(b"boot", None), Ok(ImageFormat::Raw));
    assert_eq!(told(b"", None), Ok(ImageFormat::Raw));
    assert!(told(b"boot", qcow2).unwrap_err().contains("no qcow2 image"));
}

#[test]
fn images_of_other_programs_and_packed_ones_are_refused_by_name() {
    let mut vdi = [0; HEAD_BYTES];
    vdi[0x40..0x44].copy_from_slice(&[0x7f, 0x10, 0xda, 0xbe]);
    for (head, name) in [
        (&b"KDMV"[..], "VMDK"),
        (b"# Disk DescriptorFile", "VMDK"),
        (b"vhdxfile", "VHDX"),
        (b"conectix", "VHD"),
        (&vdi, "VDI"),
        (b"\xfd7zXZ\0", "xz"),
        (b"\x1f\x8b\x08", "gzip"),
        (b"\x28\xb5\x2f\xfd", "zstd"),
    ] {
        assert!(told(head, None).unwrap_err().contains(name), "{name}");
        assert_eq!(told(head, Some(ImageFormat::Raw)), Ok(ImageFormat::Raw));
    }
}

#[test]
fn a_size_of_partial_sectors_is_refused() {
    for (size, why) in [
        (0, "empty"),
        (511, "511 bytes"),
        (4097, "no multiple of 512"),
    ] {
        let error = check_raw_size(size, &"disk.img").unwrap_err();
        assert!(error.message.contains(why), "{error}");
    }
    assert!(check_raw_size(512, &"disk.img").is_ok());
}
