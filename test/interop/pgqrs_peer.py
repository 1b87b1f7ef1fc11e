"""Drives pgqrs' own Python client for the interoperability tests.

Reads one JSON command per line from stdin, `{"do": name, ...arguments}`, answers each with one line of JSON:
`{"ok": result}` or `{"error": class, "message": text}`. Arguments: the DSN and the schema.
"""

import asyncio
import json
import sys

import pgqrs

FIELDS = (
    "id queue_id payload vt enqueued_at read_ct dequeued_at producer_worker_id consumer_worker_id archived_at"
).split()


def as_dict(message):
    return {field: getattr(message, field) for field in FIELDS}


def as_worker(worker):
    fields = {field: getattr(worker, field) for field in "id name queue_id heartbeat_at".split()}
    return {**fields, "status": str(worker.status)}


class Peer:
    def __init__(self, store):
        self.store = store
        self.producers = {}
        self.consumers = {}

    async def producer(self, queue):
        if queue not in self.producers:
            self.producers[queue] = await self.store.producer(queue)
        return self.producers[queue]

    async def consumer(self, queue):
        if queue not in self.consumers:
            self.consumers[queue] = await self.store.consumer(queue)
        return self.consumers[queue]

    async def install(self):
        await pgqrs.admin(self.store).install()

    async def verify(self):
        await pgqrs.admin(self.store).verify()

    async def create_queue(self, queue):
        return (await self.store.queue(queue)).id

    async def enqueue(self, queue, payload):
        return await (await self.producer(queue)).enqueue(payload)

    async def enqueue_delayed(self, queue, payload, seconds):
        return await (await self.producer(queue)).enqueue_delayed(payload, seconds)

    async def enqueue_batch(self, queue, payloads):
        return [m if isinstance(m, int) else m.id for m in await pgqrs.enqueue_batch(await self.producer(queue), payloads)]

    async def producer_id(self, queue):
        return (await self.producer(queue)).worker_id

    async def consumer_id(self, queue):
        return (await self.consumer(queue)).worker_id

    async def dequeue(self, queue, limit):
        return [as_dict(m) for m in await (await self.consumer(queue)).dequeue(limit)]

    async def dequeue_at(self, queue, limit, seconds, at):
        """As if it were `at` now."""
        return [as_dict(m) for m in await (await self.consumer(queue)).dequeue_at(limit, seconds, at)]

    async def dequeue_for(self, queue, limit, seconds):
        return [as_dict(m) for m in await (await self.consumer(queue)).dequeue_many_with_delay(limit, seconds)]

    async def drain(self, queue, queue_id, limit, total):
        """Takes and archives messages until `total` of the queue are archived, by whomever. Returns the ids of its own."""
        consumer, messages, mine = await self.consumer(queue), await self.store.get_messages(), []
        while True:
            taken = await consumer.dequeue(limit)
            for message in taken:
                if await consumer.archive(message.id):
                    mine.append(message.id)
            if not taken and len(await messages.list_archived_by_queue(queue_id)) >= total:
                return mine

    async def consume_and_fail(self, queue):
        """pgqrs' one-call way: a handler that fails."""

        async def handler(message):
            raise ValueError("the handler failed")

        await pgqrs.consume(self.store, queue, handler)

    async def consumer_status(self, queue):
        return str(await (await self.consumer(queue)).status())

    async def workers(self):
        return [as_worker(w) for w in await (await self.store.get_workers()).list()]

    async def worker(self, id):
        return as_worker(await (await self.store.get_workers()).get(id))

    async def archive(self, queue, id):
        return await (await self.consumer(queue)).archive(id)

    async def archive_many(self, queue, ids):
        return await (await self.consumer(queue)).archive_many(ids)

    async def delete_many(self, queue, ids):
        return await (await self.consumer(queue)).delete_many(ids)

    async def extend(self, queue, id, seconds):
        return await (await self.consumer(queue)).extend_vt(id, seconds)

    async def release_at(self, queue, id, at):
        return await (await self.consumer(queue)).release_with_visibility(id, at)

    async def release_worker(self, worker_id):
        return await pgqrs.admin(self.store).release_worker_messages(worker_id)

    async def count(self):
        """Messages that are not archived, of all queues."""
        return await (await self.store.get_messages()).count()

    async def delete(self, queue, id):
        return await (await self.consumer(queue)).delete(id)

    async def release(self, queue, ids):
        return await (await self.consumer(queue)).release_messages(ids)

    async def archived(self, queue_id):
        return [as_dict(m) for m in await (await self.store.get_messages()).list_archived_by_queue(queue_id)]

    async def start_run(self, name, argument):
        """Makes a workflow, triggers it and takes its message: leaves a run that refers to the message."""
        await pgqrs.workflow().name(name).store(self.store).create()
        await pgqrs.workflow().name(name).store(self.store).trigger(argument).execute()
        [message] = await (await self.consumer(name)).dequeue(1)
        return (await pgqrs.run().message(message).store(self.store).execute()).id()

    async def delete_queue(self, queue):
        return await pgqrs.admin(self.store).delete_queue(queue)


async def main(dsn, schema):
    config = pgqrs.Config(dsn, schema=schema, max_connections=4)
    config.max_enqueue_per_second = None
    peer = Peer(await pgqrs.connect_with(config))
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        command = json.loads(line)
        try:
            answer = {"ok": await getattr(peer, command.pop("do"))(**command)}
        except Exception as error:
            answer = {"error": type(error).__name__, "message": str(error)}
        print(json.dumps(answer), flush=True)


asyncio.run(main(*sys.argv[1:]))
