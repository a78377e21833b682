// After the SDK's example `assistant-stream`: listeners on a stream, and its final run.
import OpenAI from 'openai';

const openai = new OpenAI();

const tutor = await openai.beta.assistants.create({
  model: 'gpt-4o',
  name: 'Math Tutor',
  instructions: 'You help people with mathematics.',
});
const thread = await openai.beta.threads.create({
  messages: [{ role: 'user', content: 'What is x in `5x + 2 = 17`?' }],
});

const stream = openai.beta.threads.runs
  .stream(thread.id, { assistant_id: tutor.id })
  .on('connect', () => console.log('connect'))
  .on('event', (event) => console.log(`event ${event.event}`))
  .on('textDelta', (delta, snapshot) => console.log(`text ${JSON.stringify(snapshot.value)}`))
  .on('messageDelta', (delta, snapshot) => console.log(`message ${snapshot.id}`))
  .on('run', (run) => console.log(`run ${run.status}`));

const result = await stream.finalRun();
console.log(`result ${result.status}`);
