// What users do with the `openai` package for Node.
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import OpenAI, { toFile } from 'openai';
import { collect, play, scenario } from './play.mjs';

const STORY = 'Es war einmal … 昔々あるところに 🐢 and a hare,\nwho ran.\n\n\tThe end. ';
const BEFORE = ['thread.run.created', 'thread.run.queued', 'thread.run.in_progress'];
const MESSAGE = [
  'thread.run.step.created',
  'thread.run.step.in_progress',
  'thread.message.created',
  'thread.message.in_progress',
  'thread.message.delta',
  'thread.message.completed',
  'thread.run.step.completed',
];
const PLAIN = [...BEFORE, ...MESSAGE, 'thread.run.completed'];
const CALLS = ['thread.run.step.created', 'thread.run.step.in_progress', 'thread.run.step.delta'];
const ASKS = [...CALLS, 'thread.run.requires_action'];
const ON = ['thread.run.step.completed', 'thread.run.queued', 'thread.run.in_progress'];

const script = (...turns) => JSON.stringify({ turns });
const tool = (name) => ({
  type: 'function',
  function: {
    name,
    parameters: { type: 'object', properties: { city: { type: 'string' } }, required: ['city'] },
  },
});
const TOOLS = [tool('get_weather'), tool('get_time')];
const TWO_ROUNDS = script(
  {
    calls: [
      ['get_weather', { city: 'Zürich' }],
      ['get_weather', { city: 'Oslo' }],
    ],
  },
  { calls: [['get_time', { city: 'Rome' }]] },
  { say: 'They said: {outputs}.' },
);
const SAID = 'They said: get_weather Zürich, get_weather Oslo, get_time Rome.';

const assistantOf = (client, fields = {}) =>
  client.beta.assistants.create({ model: 'scripted', instructions: 'Be brief.', ...fields });
const threadOf = (client, ...texts) =>
  client.beta.threads.create({ messages: texts.map((content) => ({ role: 'user', content })) });
const newest = async (client, threadId) => (await client.beta.threads.messages.list(threadId, { limit: 1 })).data[0];
const squeezed = (names) => names.filter((name, at) => name !== names[at - 1]);
const idsOf = (things) => things.map((thing) => thing.id);

function textOf(message) {
  assert.deepEqual(message.content.map((part) => part.type), ['text']);
  return message.content[0].text.value;
}

function answers(run) {
  return run.required_action.submit_tool_outputs.tool_calls.map((call) => ({
    tool_call_id: call.id,
    output: `${call.function.name} ${JSON.parse(call.function.arguments).city}`,
  }));
}

/** Notes what a stream's listeners hear. */
function listening(stream) {
  const heard = [];
  const hooks = ['runStepCreated', 'runStepDelta', 'runStepDone', 'toolCallCreated', 'toolCallDelta', 'toolCallDone'];
  hooks.push('messageCreated', 'messageDelta', 'messageDone', 'textCreated', 'textDelta', 'textDone', 'run', 'event');
  for (const hook of hooks) stream.on(hook, (...args) => heard.push([hook, ...structuredClone(args)]));
  stream.on('end', () => heard.push(['end']));
  const all = (hook) => heard.filter(([name]) => name === hook).map(([, ...args]) => args);
  return {
    all,
    events: () => squeezed(all('event').map(([event]) => event.event)),
    hooks: (...names) => squeezed(heard.map(([name]) => name).filter((name) => names.includes(name))),
  };
}

// --- objects ---------------------------------------------------------------------------------------------------------

scenario('assistants', async (client) => {
  const given = { name: 'Grüße 🐢', description: 'All', tools: TOOLS, metadata: { a: 'b' }, temperature: 0.3, top_p: 0.9 };
  const made = await assistantOf(client, given);
  assert.match(made.id, /^asst_/);
  assert.equal(made.object, 'assistant');
  for (const key of ['name', 'description', 'metadata', 'temperature', 'top_p']) assert.deepEqual(made[key], given[key]);
  assert.deepEqual(made.tools[0].function.parameters, TOOLS[0].function.parameters);
  assert.deepEqual(await client.beta.assistants.retrieve(made.id), made);
  const changed = await client.beta.assistants.update(made.id, { name: 'New', tools: [] });
  assert.deepEqual(changed, { ...made, name: 'New', tools: [] });
  const deleted = await client.beta.assistants.delete(made.id);
  assert.deepEqual({ ...deleted }, { id: made.id, object: 'assistant.deleted', deleted: true });
  await assert.rejects(client.beta.assistants.retrieve(made.id), OpenAI.NotFoundError);
});

scenario('threads_and_messages', async (client) => {
  const { threads } = client.beta;
  const thread = await threads.create({ metadata: { a: '1' } });
  assert.deepEqual((await threads.update(thread.id, { metadata: { b: '2' } })).metadata, { b: '2' });
  assert.deepEqual((await threads.retrieve(thread.id)).metadata, { b: '2' });
  const made = await threads.messages.create(thread.id, { role: 'user', content: STORY });
  assert.equal(textOf(made), STORY);
  const at = { thread_id: thread.id };
  assert.deepEqual(await threads.messages.retrieve(made.id, at), made);
  const changed = await threads.messages.update(made.id, { ...at, metadata: { k: 'v' } });
  assert.deepEqual(changed, { ...made, metadata: { k: 'v' } });
  assert.equal((await threads.messages.delete(made.id, at)).deleted, true);
  assert.deepEqual((await threads.messages.list(thread.id)).data, []);
  assert.equal((await threads.delete(thread.id)).object, 'thread.deleted');
  await assert.rejects(threads.retrieve(thread.id), OpenAI.NotFoundError);
  assert.match((await threads.create()).id, /^thread_/);
});

scenario('pages', async (client) => {
  const assistants = [];
  for (let number = 0; number < 7; number++) assistants.push((await assistantOf(client)).id);
  await pages((query) => client.beta.assistants.list(query), assistants);
  const thread = await threadOf(client, ...'abcdefg');
  const { messages } = client.beta.threads;
  const made = idsOf((await messages.list(thread.id, { order: 'asc' })).data);
  await pages((query) => messages.list(thread.id, query), made);
});

async function pages(list, made) {
  const newestFirst = made.toReversed();
  assert.deepEqual(idsOf(await collect(list({ limit: 2, order: 'asc' }))), made);
  assert.deepEqual(idsOf(await collect(list({ limit: 3 }))), newestFirst);
  assert.deepEqual(idsOf(await collect(list({ limit: 2, order: 'asc', after: made[1] }))), made.slice(2));
  const page = await list({ limit: 4 });
  assert.deepEqual([idsOf(page.getPaginatedItems()), page.has_more], [newestFirst.slice(0, 4), true]);
  assert.ok(page.hasNextPage());
  const last = await page.getNextPage();
  assert.deepEqual([idsOf(last.data), last.has_more, last.hasNextPage()], [newestFirst.slice(4), false, false]);
  const before = await list({ limit: 2, order: 'asc', before: made[5] });
  assert.deepEqual([idsOf(before.data), before.has_more], [made.slice(3, 5), true]);
  const sizes = [];
  for await (const one of (await list({ limit: 3 })).iterPages()) sizes.push(one.data.length);
  assert.deepEqual(sizes, [3, 3, 1]);
}

// --- runs, polled ----------------------------------------------------------------------------------------------------

scenario('poll', async (client) => {
  const { runs } = client.beta.threads;
  const assistant = await assistantOf(client);
  const thread = await threadOf(client, script({ say: '{instructions}: ' + STORY }));
  const run = await runs.createAndPoll(thread.id, { assistant_id: assistant.id, additional_instructions: 'Be kind.' });
  assert.deepEqual([run.status, run.instructions], ['completed', 'Be brief.\n\nBe kind.']);
  const message = await newest(client, thread.id);
  assert.equal(textOf(message), 'Be brief.\n\nBe kind.: ' + STORY);
  assert.deepEqual([message.run_id, message.assistant_id, message.role], [run.id, assistant.id, 'assistant']);
  const [step, ...more] = await collect(runs.steps.list(run.id, { thread_id: thread.id }));
  assert.deepEqual(more, []);
  assert.equal(step.step_details.message_creation.message_id, message.id);
  assert.deepEqual(await runs.steps.retrieve(step.id, { thread_id: thread.id, run_id: run.id }), step);
  assert.deepEqual(step.usage, run.usage);
  const changed = await runs.update(run.id, { thread_id: thread.id, metadata: { a: 'b' } });
  assert.deepEqual(changed, { ...run, metadata: { a: 'b' } });
  assert.deepEqual(await collect(runs.list(thread.id)), [changed]);
});

scenario('poll_thread_and_run', async (client) => {
  const assistant = await assistantOf(client);
  const thread = { messages: [{ role: 'user', content: script({ say: 'Hello.' }) }] };
  const run = await client.beta.threads.createAndRunPoll({ assistant_id: assistant.id, thread });
  assert.equal(run.status, 'completed');
  assert.equal(textOf(await newest(client, run.thread_id)), 'Hello.');
});

scenario('poll_tools', async (client) => {
  const { runs } = client.beta.threads;
  const assistant = await assistantOf(client, { tools: TOOLS });
  const thread = await threadOf(client, TWO_ROUNDS);
  let run = await runs.createAndPoll(thread.id, { assistant_id: assistant.id });
  const rounds = [];
  while (run.status === 'requires_action') {
    rounds.push(run.required_action.submit_tool_outputs.tool_calls.map((call) => call.function.name));
    const outputs = { thread_id: thread.id, tool_outputs: answers(run) };
    run = await runs.submitToolOutputsAndPoll(run.id, outputs);
  }
  assert.deepEqual(rounds, [['get_weather', 'get_weather'], ['get_time']]);
  assert.equal(run.status, 'completed');
  assert.equal(textOf(await newest(client, thread.id)), SAID);
});

scenario('cancel', async (client) => {
  const { runs } = client.beta.threads;
  const assistant = await assistantOf(client);
  const thread = await threadOf(client, script({ say: 'word '.repeat(200), pause: 0.1 }));
  const run = await runs.create(thread.id, { assistant_id: assistant.id });
  assert.equal((await runs.cancel(run.id, { thread_id: thread.id })).status, 'cancelling');
  const ended = await runs.poll(run.id, { thread_id: thread.id });
  assert.equal(ended.status, 'cancelled');
});

// --- runs, streamed --------------------------------------------------------------------------------------------------

scenario('stream_events', async (client) => {
  const { runs } = client.beta.threads;
  const assistant = await assistantOf(client);
  const thread = await threadOf(client, script({ say: STORY.repeat(3), pause: 0.005 }));
  const stream = runs.stream(thread.id, { assistant_id: assistant.id });
  const heard = listening(stream);
  const run = await stream.finalRun();
  assert.deepEqual(heard.events(), PLAIN);
  assert.deepEqual(
    heard.hooks('runStepCreated', 'messageCreated', 'textCreated', 'textDelta', 'textDone', 'messageDone', 'runStepDone'),
    ['runStepCreated', 'messageCreated', 'textCreated', 'textDelta', 'textDone', 'messageDone', 'runStepDone'],
  );
  let text = '';
  for (const [delta, snapshot] of heard.all('textDelta')) {
    text += delta.value;
    assert.equal(snapshot.value, text);
  }
  assert.ok(heard.all('textDelta').length > 1);
  assert.equal(text, STORY.repeat(3));
  assert.deepEqual(run, await runs.retrieve(run.id, { thread_id: thread.id }));
  const [message, ...more] = await stream.finalMessages();
  assert.deepEqual(more, []);
  assert.deepEqual(message, await newest(client, thread.id));
  const steps = await stream.finalRunSteps();
  assert.deepEqual(idsOf(steps), idsOf(await collect(runs.steps.list(run.id, { thread_id: thread.id }))));
  assert.equal(steps[0].status, 'completed');
});

scenario('stream_tools', async (client) => {
  const { runs } = client.beta.threads;
  const assistant = await assistantOf(client, { tools: TOOLS });
  const thread = await threadOf(client, TWO_ROUNDS);
  let stream = runs.stream(thread.id, { assistant_id: assistant.id });
  const expected = [[...BEFORE, ...ASKS], [...ON, ...ASKS], [...ON, ...MESSAGE, 'thread.run.completed']];
  for (const names of expected) {
    const heard = listening(stream);
    const run = await stream.finalRun();
    assert.deepEqual(heard.events(), names);
    if (run.status === 'requires_action') {
      checkCalls(heard, run);
      stream = runs.submitToolOutputsStream(run.id, { thread_id: thread.id, tool_outputs: answers(run) });
    } else {
      assert.equal(textOf((await stream.finalMessages())[0]), SAID);
    }
  }
  assert.equal(textOf(await newest(client, thread.id)), SAID);
});

function checkCalls(heard, run) {
  const wanted = run.required_action.submit_tool_outputs.tool_calls;
  const created = heard.all('toolCallCreated').map(([call]) => call.id);
  assert.deepEqual(created, idsOf(wanted));
  const done = heard.all('toolCallDone').map(([call]) => [call.id, call.function.name, call.function.arguments]);
  assert.deepEqual(done, wanted.map((call) => [call.id, call.function.name, call.function.arguments]));
}

scenario('file_search', async (client) => {
  const store = await client.vectorStores.create({ name: 'Foods' });
  const file = await toFile(Buffer.from("Filip's favourite is cake."), 'foods.txt');
  const held = await client.vectorStores.files.uploadAndPoll(store.id, file);
  assert.equal(held.status, 'completed');
  const tool_resources = { file_search: { vector_store_ids: [store.id] } };
  const assistant = await assistantOf(client, { tools: [{ type: 'file_search' }], tool_resources });
  const search = { calls: [['file_search', { queries: ['cake'] }]] };
  const thread = await threadOf(client, script(search, { say: '🍰 {outputs}' }));
  const include = ['step_details.tool_calls[*].file_search.results[*].content'];
  const stream = client.beta.threads.runs.stream(thread.id, { assistant_id: assistant.id, include });
  const heard = listening(stream);
  const [message] = await stream.finalMessages();
  const { value, annotations } = message.content[0].text;
  assert.equal(annotations.length, 1);
  const [{ text, start_index, end_index, file_citation }] = annotations;
  assert.equal([...value].slice(start_index, end_index).join(''), text); // code points
  assert.equal(file_citation.file_id, held.id);
  assert.deepEqual(message, await newest(client, thread.id));
  const cited = heard.all('textDelta').filter(([delta]) => delta.annotations?.length);
  assert.deepEqual(cited.map(([delta]) => delta.value), [text]);
  const [[searched]] = heard.all('runStepDone');
  const [result] = searched.step_details.tool_calls[0].file_search.results;
  assert.deepEqual([result.file_id, result.file_name, result.content.length], [held.id, 'foods.txt', 1]);
});

scenario('code_interpreter', async (client) => {
  const code = [
    'from pathlib import Path',
    'import matplotlib.pyplot as plt',
    'print("größe 😀")',
    'Path("/mnt/data/out.txt").write_text(Path("/mnt/data/in.txt").read_text() * 2)',
    'plt.plot([1, 2])',
    'plt.show()',
  ].join('\n');
  const file = await client.files.create({ file: await toFile(Buffer.from('ab'), 'in.txt'), purpose: 'assistants' });
  const tool_resources = { code_interpreter: { file_ids: [file.id] } };
  const assistant = await assistantOf(client, { tools: [{ type: 'code_interpreter' }], tool_resources });
  const link = 'sandbox:/mnt/data/out.txt';
  const thread = await threadOf(client, script({ calls: [['python', { code }]] }, { say: `🍰 [it](${link})` }));
  const stream = client.beta.threads.runs.stream(thread.id, { assistant_id: assistant.id });
  const heard = listening(stream);
  const images = [];
  stream.on('imageFileDone', (image) => images.push(image.file_id));
  const [message] = await stream.finalMessages();
  const [image, { text }] = message.content;
  const [annotation] = text.annotations;
  assert.deepEqual([annotation.type, annotation.text], ['file_path', link]);
  assert.equal([...text.value].slice(annotation.start_index, annotation.end_index).join(''), link); // code points
  assert.deepEqual(message, await newest(client, thread.id));
  assert.deepEqual(message.attachments.map((one) => one.file_id), [annotation.file_path.file_id]);
  const deltas = heard.all('toolCallDelta').map(([delta]) => delta.code_interpreter);
  assert.equal(deltas.map((delta) => delta.input ?? '').join(''), code);
  const outputs = deltas.flatMap((delta) => delta.outputs ?? []);
  assert.deepEqual(outputs.map((output) => output.type), ['logs', 'image']);
  assert.equal(outputs[0].logs, 'größe 😀\n');
  assert.equal(outputs[1].image.file_id, image.image_file.file_id);
  assert.deepEqual(images, [image.image_file.file_id]);
  const written = await client.files.content(annotation.file_path.file_id);
  assert.equal(await written.text(), 'abab');
});

scenario('stream_thread_and_run', async (client) => {
  const assistant = await assistantOf(client);
  const thread = { messages: [{ role: 'user', content: script({ say: 'Hello.' }) }] };
  const stream = client.beta.threads.createAndRunStream({ assistant_id: assistant.id, thread });
  const events = await collect(stream);
  assert.deepEqual(squeezed(events.map((event) => event.event)), ['thread.created', ...PLAIN]);
  assert.equal(textOf((await stream.finalMessages())[0]), 'Hello.');
});

scenario('raw_events', async (client) => {
  const { runs } = client.beta.threads;
  const assistant = await assistantOf(client, { tools: TOOLS });
  const thread = await threadOf(client, TWO_ROUNDS);
  let events = await collect(await runs.create(thread.id, { assistant_id: assistant.id, stream: true }));
  assert.deepEqual(squeezed(events.map((event) => event.event)), [...BEFORE, ...ASKS]);
  const run = events.at(-1).data;
  const outputs = { thread_id: thread.id, tool_outputs: answers(run), stream: true };
  events = await collect(await runs.submitToolOutputs(run.id, outputs));
  assert.deepEqual(squeezed(events.map((event) => event.event)), [...ON, ...ASKS]);
});

scenario('stream_that_is_cancelled', async (client) => {
  const { runs } = client.beta.threads;
  const assistant = await assistantOf(client);
  const thread = await threadOf(client, script({ say: 'word '.repeat(200), pause: 0.05 }));
  const stream = runs.stream(thread.id, { assistant_id: assistant.id });
  stream.once('textDelta', () => runs.cancel(stream.currentRun().id, { thread_id: thread.id }));
  const heard = listening(stream);
  const run = await stream.finalRun();
  assert.equal(run.status, 'cancelled');
  const ending = ['thread.message.incomplete', 'thread.run.step.cancelled', 'thread.run.cancelled'];
  assert.deepEqual(heard.events().slice(-3), ending);
  const [message] = await stream.finalMessages();
  assert.deepEqual([message.status, message.incomplete_details.reason], ['incomplete', 'run_cancelled']);
  assert.match(textOf(message), /^word/);
});

scenario('streams_that_end_badly', async (client) => {
  const { runs } = client.beta.threads;
  const assistant = await assistantOf(client);
  const thread = await threadOf(client, script({ say: 'Half a sen', finish: 'length' }));
  let run = await runs.stream(thread.id, { assistant_id: assistant.id }).finalRun();
  assert.deepEqual([run.status, run.incomplete_details.reason], ['incomplete', 'max_completion_tokens']);
  await client.beta.threads.messages.create(thread.id, { role: 'user', content: script({ say: 'No', status: 501 }) });
  run = await runs.stream(thread.id, { assistant_id: assistant.id }).finalRun();
  assert.deepEqual([run.status, run.last_error.message], ['failed', 'No']);
});

// --- errors and headers ----------------------------------------------------------------------------------------------

async function refusal(promise, kind, status) {
  const error = await promise.then(
    () => assert.fail(`no ${kind.name}`),
    (caught) => caught,
  );
  assert.ok(error instanceof kind, `${error.name}: ${error.message}`);
  assert.equal(error.status, status);
  assert.match(error.requestID, /^req_/);
  return error;
}

scenario('errors', async (client) => {
  const { threads } = client.beta;
  const missing = 'asst_0123456789abcdefghijABCD';
  let error = await refusal(client.beta.assistants.retrieve(missing), OpenAI.NotFoundError, 404);
  assert.match(error.message, new RegExp(`No assistant found with id '${missing}'`));
  error = await refusal(assistantOf(client, { metadata: { k: true } }), OpenAI.BadRequestError, 400);
  assert.deepEqual([error.param, error.code, error.type], ['metadata.k', 'invalid_type', 'invalid_request_error']);
  error = await refusal(threads.retrieve('undefined'), OpenAI.BadRequestError, 400);
  assert.equal(error.code, 'invalid_value');
  const stranger = client.withOptions({ apiKey: 'sk-wrong-0123456789abcdef' });
  error = await refusal(stranger.beta.threads.create(), OpenAI.AuthenticationError, 401);
  assert.equal(error.code, 'invalid_api_key');
});

scenario('conflicts', async (client) => {
  const { threads } = client.beta;
  const { runs } = threads;
  const tries = [];
  const counting = client.withOptions({ fetch: (...args) => (tries.push(args[0]), fetch(...args)) });
  const assistant = await assistantOf(client, { tools: TOOLS });
  const thread = await threadOf(client, script({ calls: [['get_time', { city: 'Rome' }]] }, { say: 'ok' }));
  const at = { thread_id: thread.id };
  const run = await runs.createAndPoll(thread.id, { assistant_id: assistant.id });
  const busy = counting.beta.threads.messages.create(thread.id, { role: 'user', content: 'And?' });
  let error = await refusal(busy, OpenAI.BadRequestError, 400);
  assert.match(error.message, new RegExp(`Can't add messages to ${thread.id} while a run ${run.id} is active.`));
  const second = counting.beta.threads.runs.create(thread.id, { assistant_id: assistant.id });
  error = await refusal(second, OpenAI.BadRequestError, 400);
  assert.match(error.message, new RegExp(`Thread ${thread.id} already has an active run ${run.id}.`));
  const none = counting.beta.threads.runs.submitToolOutputs(run.id, { ...at, tool_outputs: [] });
  error = await refusal(none, OpenAI.BadRequestError, 400);
  assert.match(error.message, /Expected tool outputs for call_ids/);
  await runs.submitToolOutputsAndPoll(run.id, { ...at, tool_outputs: answers(run) });
  error = await refusal(counting.beta.threads.runs.cancel(run.id, at), OpenAI.BadRequestError, 400);
  assert.match(error.message, /Cannot cancel run with status 'completed'/);
  assert.equal(tries.length, 4);
});

// --- files and uploads -----------------------------------------------------------------------------------------------

const BYTES = Buffer.concat([Buffer.alloc(500_000, 'abc\r\n'), Buffer.from(STORY)]);
const bytesOf = async (client, id) => Buffer.from(await (await client.files.content(id)).arrayBuffer());

scenario('files', async (client) => {
  const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'files-'));
  const place = path.join(folder, 'Grüße 🐢.txt');
  fs.writeFileSync(place, BYTES);
  const made = [];
  for (const file of [fs.createReadStream(place), await toFile(BYTES, 'b.bin'), new File([BYTES], 'c.txt')]) {
    made.push(await client.files.create({ file, purpose: 'assistants' }));
  }
  fs.rmSync(folder, { recursive: true });
  assert.deepEqual(made.map((file) => file.filename), ['Grüße 🐢.txt', 'b.bin', 'c.txt']);
  for (const file of made) {
    assert.deepEqual([file.object, file.bytes, file.status], ['file', BYTES.length, 'processed']);
    assert.deepEqual(await client.files.retrieve(file.id), file);
    assert.deepEqual(await client.files.waitForProcessing(file.id), file);
    assert.ok((await bytesOf(client, file.id)).equals(BYTES));
  }
  const expires_after = { anchor: 'created_at', seconds: 3600 };
  const kept = await client.files.create({ file: await toFile('a', 'a'), purpose: 'vision', expires_after });
  assert.equal(kept.expires_at, kept.created_at + 3600);
  assert.deepEqual(idsOf(await collect(client.files.list({ limit: 2 }))), idsOf([kept, ...made.reverse()]));
  assert.deepEqual(await collect(client.files.list({ purpose: 'vision' })), [kept]);
  const deleted = await client.files.delete(kept.id);
  assert.deepEqual(deleted, { id: kept.id, object: 'file', deleted: true });
  const error = await refusal(client.files.retrieve(kept.id), OpenAI.NotFoundError, 404);
  assert.equal(error.param, 'id');
  await refusal(client.files.create({ file: await toFile('', 'a'), purpose: 'assistants' }), OpenAI.BadRequestError, 400);
});

scenario('uploads', async (client) => {
  const given = { filename: 'a.txt', mime_type: 'text/plain', purpose: 'assistants', bytes: 6 };
  const upload = await client.uploads.create(given);
  assert.deepEqual([upload.object, upload.status], ['upload', 'pending']);
  const parts = [];
  for (const text of ['two', 'one']) {
    parts.push(await client.uploads.parts.create(upload.id, { data: await toFile(Buffer.from(text), 'blob') }));
  }
  const part_ids = idsOf(parts.reverse());
  const md5 = createHash('md5').update('onetwo').digest('hex');
  const completed = await client.uploads.complete(upload.id, { part_ids, md5 });
  assert.deepEqual([completed.status, completed.file.bytes], ['completed', 6]);
  assert.equal((await bytesOf(client, completed.file.id)).toString(), 'onetwo');
  const other = await client.uploads.create(given);
  assert.equal((await client.uploads.cancel(other.id)).status, 'cancelled');
  await refusal(client.uploads.complete(other.id, { part_ids }), OpenAI.BadRequestError, 400);
});

scenario('vectorStores', async (client) => {
  const { vectorStores } = client;
  const store = await vectorStores.create({ name: 'Facts' });
  const rivers = await toFile(Buffer.from('The Danube flows through Vienna.\n\nThe Seine flows through Paris.'), 'rivers.txt');
  const file = await vectorStores.files.uploadAndPoll(store.id, rivers);
  assert.deepEqual([file.status, file.last_error], ['completed', null]);
  const other = await client.files.create({ file: await toFile('Bananas are yellow.', 'fruits.md'), purpose: 'assistants' });
  const polled = await vectorStores.files.createAndPoll(store.id, { file_id: other.id, attributes: { kind: 'fruit' } });
  assert.deepEqual([polled.status, polled.attributes], ['completed', { kind: 'fruit' }]);
  const files = [await toFile('Cherries are red.', 'a.txt'), await toFile('MZ\0', 'program.exe')];
  const batch = await vectorStores.fileBatches.uploadAndPoll(store.id, { files });
  assert.deepEqual([batch.status, batch.file_counts.completed, batch.file_counts.failed], ['completed', 1, 1]);
  const found = await collect(vectorStores.search(store.id, { query: 'Which river flows through Vienna?' }));
  assert.equal(found[0].file_id, file.id);
  const [part] = await collect(vectorStores.files.content(file.id, { vector_store_id: store.id }));
  assert.match(part.text, /Danube/);
  assert.equal((await collect(vectorStores.files.list(store.id, { limit: 2 }))).length, 4);
  assert.equal((await vectorStores.delete(store.id)).deleted, true);
  await refusal(vectorStores.retrieve(store.id), OpenAI.NotFoundError, 404);
});

scenario('headers', async (client) => {
  const { runs } = client.beta.threads;
  const assistant = await assistantOf(client);
  const thread = await threadOf(client, 'Hi');
  const run = await runs.createAndPoll(thread.id, { assistant_id: assistant.id });
  const { data, response, request_id } = await runs.retrieve(run.id, { thread_id: thread.id }).withResponse();
  assert.deepEqual(data, run);
  assert.equal(response.headers.get('openai-poll-after-ms'), '100');
  assert.equal(response.headers.get('x-request-id'), request_id);
  assert.match(request_id, /^req_/);
});

await play();
