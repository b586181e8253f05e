// Prints as JSON what an MCAP file holds: `node read_bag.mjs FILE`. Messages are decoded by the schemas in the file.
import { McapIndexedReader } from "@mcap/core";
import { parse } from "@foxglove/rosmsg";
import { MessageReader } from "@foxglove/rosmsg2-serialization";
import { decompress } from "fzstd";
import { createHash } from "node:crypto";
import { open } from "node:fs/promises";

const file = await open(process.argv[2]);
const { size } = await file.stat();
const readable = {
  size: async () => BigInt(size),
  read: async (offset, length) => {
    const buffer = new Uint8Array(Number(length));
    await file.read(buffer, 0, Number(length), Number(offset));
    return buffer;
  },
};

const reader = await McapIndexedReader.Initialize({
  readable,
  decompressHandlers: { zstd: (buffer, length) => decompress(buffer, new Uint8Array(Number(length))) },
});

const readers = new Map();
const topics = {};
for (const channel of reader.channelsById.values()) {
  const schema = reader.schemasById.get(channel.schemaId);
  const definitions = parse(new TextDecoder().decode(schema.data), { ros2: true });
  readers.set(channel.id, new MessageReader(definitions));
  topics[channel.topic] = {
    type: schema.name,
    encoding: [channel.messageEncoding, schema.encoding],
    hash: channel.metadata.get("topic_type_hash"),
    messages: [],
  };
}

for await (const record of reader.readMessages()) {
  const { topic } = reader.channelsById.get(record.channelId);
  const message = readers.get(record.channelId).readMessage(record.data);
  topics[topic].messages.push({
    logTime: record.logTime.toString(),
    publishTime: record.publishTime.toString(),
    stamp: [message.header?.stamp.sec, message.header?.stamp.nanosec],
    // Lists of numbers as they are, pixels by their hash.
    values: Object.fromEntries(Object.entries(message).filter(([name]) => name !== "header").map(
      ([name, value]) => [name, name === "data" && ArrayBuffer.isView(value)
        ? createHash("sha256").update(value).digest("hex")
        : ArrayBuffer.isView(value) ? Array.from(value) : value])),
  });
}

console.log(JSON.stringify({
  profile: reader.header.profile,
  chunks: reader.chunkIndexes.map((chunk) => chunk.compression),
  metadata: reader.metadataIndexes.map((entry) => entry.name),
  messageCount: Number(reader.statistics.messageCount),
  topics,
}, (name, value) => (typeof value === "bigint" ? value.toString() : value)));
