//! Programs with event loops, which this machine may have: captured in the middle of their work.

use crate::programs::goes_on;

/// A program of Node.js: a chain of hashes, each in another turn of its event loop, with timers and
/// files that its thread pool reads.
fn node(turns: u32) -> String {
    format!(
        "
const crypto = require('crypto'), fs = require('fs');
let digest = Buffer.from('begin'), turn = 0, timers = 0;
const timer = setInterval(() => timers += 1, 1);
function step() {{
    for (let round = 0; round < 200; round++)
        digest = crypto.createHash('sha256').update(digest).digest();
    turn += 1;
    if (turn % 50 == 0) console.log(turn, digest.toString('hex'));
    if (turn == {turns}) return done();
    if (turn % 10 == 0) fs.readFile('input', next);
    else if (turn % 10 == 5) crypto.pbkdf2(digest, 'salt', 10, 32, 'sha256', mix);
    else setImmediate(step);
}}
function next(error) {{ setTimeout(step, 1); }}
function mix(error, key) {{ digest = key; step(); }}
function done() {{ clearInterval(timer); console.log(timers > 0, 'done'); }}
step();
"
    )
}

/// A program of CPython: tasks of asyncio pass numbers to each other by queues, by pairs of sockets
/// and by threads, with pauses.
fn asyncio(turns: u32) -> String {
    format!(
        "
import asyncio, hashlib, socket
async def worker(number, inbox, outbox):
    while True:
        digest = await inbox.get()
        if digest is None: return await outbox.put(None)
        for turn in range(300): digest = hashlib.sha256(digest).digest()
        await asyncio.sleep(0.001 * (number % 2))
        await outbox.put(digest)
async def echo(reader, writer):
    while line := await reader.readline():
        writer.write(line.upper())
        await writer.drain()
    writer.close()
async def main():
    queues = [asyncio.Queue() for _ in range(4)]
    tasks = [asyncio.create_task(worker(n, queues[n], queues[n + 1])) for n in range(3)]
    ours, theirs = socket.socketpair()
    reader, writer = await asyncio.open_connection(sock=ours)
    server = asyncio.create_task(echo(*await asyncio.open_connection(sock=theirs)))
    digest = b'begin'
    for turn in range({turns}):
        await queues[0].put(digest)
        digest = await queues[3].get()
        writer.write(digest.hex().encode() + b'\\n')
        line = await reader.readline()
        if turn % 20 == 0: print(turn, line.decode().strip(), flush=True)
        if turn % 30 == 0:
            digest = await asyncio.to_thread(hashlib.pbkdf2_hmac, 'sha256', digest, b's', 99)
    await queues[0].put(None)
    await asyncio.gather(*tasks)
    writer.close()
    await server
    print('done')
asyncio.run(main())
"
    )
}

#[test]
fn asyncio_with_tasks_sockets_and_threads() {
    goes_on(&["/usr/bin/python3", "-c", &asyncio(600)], b"");
}

#[test]
fn node_with_timers_and_a_pool_of_threads() {
    goes_on(&["node", "-e", &node(1500)], b"");
}
