use super::image_test::reason;
use super::version_4_test::image_of_version_4;
use super::{
    Image, OpenFile, SegmentMark, Stopped, Terminal, TerminalContent, TerminalEnd, TerminalLine,
    What,
};

/// An image that uses everything that came with version 5. Its bytes are in version-5.bin.
fn image_of_version_5() -> Image {
    let mut image = image_of_version_4();
    image.segments = vec![SegmentMark {
        held: 2,
        creator: 77,
        changed_s: 1_700_000_000,
        locked: true,
    }];
    let line = |bytes: &[u8], ends_file| TerminalLine {
        bytes: bytes.to_vec(),
        ends_file,
    };
    let process = &mut image.processes[0];
    process.session = process.pid;
    let pid = process.pid;
    image.terminals = vec![Terminal {
        number: 3,
        master: b"/dev/ptmx".to_vec(),
        modes: (0..44).collect(),
        window: [24, 80, 240, 800],
        packets: true,
        file: (0o620, 1000, 5),
        is_open: true,
        session: pid,
        foreground: 4711,
        without: vec![pid],
        content: TerminalContent {
            output: b"out".to_vec(),
            lines: vec![line(b"line\n", false), line(b"end", true)],
            rest: b"typed".to_vec(),
            unread: b"more".to_vec(),
            stopped: Stopped::ByKey,
        },
    }];
    for end in [
        TerminalEnd::Master,
        TerminalEnd::Slave,
        TerminalEnd::Controlling,
    ] {
        image.files.push(OpenFile {
            what: What::Terminal { terminal: 0, end },
            flags: libc::O_RDWR,
            offset: 0,
        });
    }
    image
}

#[test]
fn the_encoded_image_of_version_5_does_not_change() {
    let bytes = include_bytes!("version-5.bin");
    let image = image_of_version_5();
    let encoded = image.encode().expect("an image");
    assert_eq!(Image::decode(bytes).expect("an image"), image);
    assert!(encoded == bytes, "it is encoded otherwise");
}

#[test]
fn what_came_with_version_5_is_refused_where_it_makes_no_sense() {
    let refused = |change: fn(&mut Image)| {
        let mut image = image_of_version_5();
        change(&mut image);
        reason(&image.encode().expect("an image"))
    };
    assert_eq!(
        refused(|image| image.segments[0].held = 1),
        "a segment of memory is missing"
    );
    let no_modes = "a terminal has a number or modes that are none";
    assert_eq!(
        refused(|image| image.terminals[0].number = 1 << 20),
        no_modes
    );
    assert_eq!(
        refused(|image| image.terminals[0].modes.truncate(43)),
        no_modes
    );
    let no_path = "a terminal has paths or permissions that are none";
    assert_eq!(
        refused(|image| image.terminals[0].master.push(b'x')),
        no_path
    );
    assert_eq!(refused(|image| image.terminals[0].file.0 = 0o4620), no_path);
    assert_eq!(
        refused(|image| image.terminals.push(image.terminals[0].clone())),
        "a terminal is there twice"
    );
    let no_session = "a terminal is of a session that is none";
    assert_eq!(refused(|image| image.terminals[0].session = 3), no_session);
    assert_eq!(
        refused(|image| image.terminals[0].is_open = false),
        no_session
    );
    assert_eq!(
        refused(|image| image.terminals[0].session = 0),
        "a terminal has a foreground and no session"
    );
    assert_eq!(
        refused(|image| image.terminals[0].without[0] = 3),
        "a process without its terminal is missing"
    );
    assert_eq!(
        refused(|image| image.terminals[0].content.rest = vec![0; 1 << 20]),
        "a terminal has more in it than it can"
    );
    assert_eq!(
        refused(|image| image.terminals.clear()),
        "a terminal is missing"
    );
}
