// After the SDK's example `assistant-stream-raw`: `stream: true`, and text written as it comes.
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

const stream = await openai.beta.threads.runs.create(thread.id, {
  assistant_id: tutor.id,
  additional_instructions: 'Call the user Jane.',
  stream: true,
});
for await (const event of stream) {
  if (event.event !== 'thread.message.delta') continue;
  const part = event.data.delta.content?.[0];
  if (part && 'text' in part && part.text.value) process.stdout.write(part.text.value);
}
console.log();
